"""Labels to numbers and back: written once for z y x, the same bytes for any number of threads."""
