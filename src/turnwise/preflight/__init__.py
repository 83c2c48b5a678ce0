"""What `mode=doctor` proves of the parts of a run, one module for each family of checks."""
