"""The plan: pure rules, plain data in and plain data out."""
