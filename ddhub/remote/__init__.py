"""The Hugging Face Hub, a folder or a web server as transport: find, download, check and cache an artifact."""
