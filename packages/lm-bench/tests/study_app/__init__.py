"""A program that trains in milliseconds, by plain numpy, for the tests of studies."""
