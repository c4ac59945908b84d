"""Whole clusters in virtual time: the real planner, everything around it simulated."""
