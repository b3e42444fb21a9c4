"""Models of other projects: adopted as artifacts of ours."""
