"""biosegkit in napari: a view over the package, without algorithms of its own."""
