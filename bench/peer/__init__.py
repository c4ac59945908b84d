"""Patroni with vip-manager, laid out beside chefha on the lab's machines, to be measured in the same run."""
