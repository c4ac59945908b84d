"""How long writes are away, and what is lost, in each fault: measured in the lab, run by run."""
