"""Databases and object stores: what they have, whether they can be used, and what is brought from one to another."""
