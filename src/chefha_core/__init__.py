"""The library behind chefha: everything Salt, leaderl and chef-backend-ctl do is thin over it."""

__version__ = "0.1.0"
