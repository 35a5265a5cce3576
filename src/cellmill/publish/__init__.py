"""Exports and parts to where others find them: the Hugging Face Hub, Zenodo, and any WebDAV folder."""
