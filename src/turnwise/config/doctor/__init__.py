"""`mode=doctor`: what a configuration is checked for before step 1, with the parts that it names."""
