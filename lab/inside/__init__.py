"""Programs that run inside the lab's machines: standard library only, copied there as a package of their own."""
