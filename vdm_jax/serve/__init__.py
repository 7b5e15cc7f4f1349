"""The verb `serve`: videos over HTTP, for people and programs that may not trust each other."""
