"""A Flask shop with a Celery worker: docs/celery.md shows these files and these trees."""
