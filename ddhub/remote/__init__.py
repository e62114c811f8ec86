"""Transport from the Hugging Face Hub, a folder or a web server: find, download, check and cache artifacts."""
