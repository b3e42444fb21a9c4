"""OpenVINO files in every precision."""
