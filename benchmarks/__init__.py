"""What is measured outside the tests: accuracy, and solvers on standard problems."""
