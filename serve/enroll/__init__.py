"""Enrollment of people from images, folders, archives, tables and videos."""
