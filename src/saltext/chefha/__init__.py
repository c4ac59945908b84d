"""chefha as Salt sees it: the folders beside it are links to `_modules`, `_states` and the like."""
