"""One test file for each module of the package, in the same tree."""
