"""What workers run: one Celery task per step kind, and the prompts they send."""
