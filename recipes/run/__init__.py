"""What every recipe is run by: stages, plans, options, teachers, labels and the papers' numbers."""
