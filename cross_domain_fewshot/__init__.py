"""Learned feature-wise transformation for few-shot learning across domains (section 4.3)."""
