"""Patches of real images, scored and refined: shared by NRR-DD and RDED."""
