"""What people are enrolled from: images, folders, archives, tables and videos."""
