"""Trajectory matching: experts, the inner loop and its gradient, shared by MTT, DATM and EDF."""
