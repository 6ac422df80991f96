"""The search for the matrices with the largest errors: `make accuracy`, docs/accuracy.md."""
