"""The mode `warmstart` and where it takes what is imitated from."""
