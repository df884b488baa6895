"""Low-resource cross-lingual named entity recognition with MetaXL (section 4.5 of the paper)."""
