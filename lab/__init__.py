"""The lab: a whole chefha cluster on real machines in containers, its faults and its measuring probe."""
