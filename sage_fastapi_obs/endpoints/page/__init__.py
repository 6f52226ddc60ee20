"""The live page: one page in the browser, from files of this package."""
