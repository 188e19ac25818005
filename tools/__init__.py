"""Set-up, tests and documentation site of a checkout. Not part of the installed package."""
