"""The Hub, played by a server of this process, and the tests that talk to it."""
