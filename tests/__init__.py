"""The tests; `CONTRIBUTING.md` says which of them proves what."""
