"""Structured output: what a reply must look like, and what is made of it."""
