"""Many files: archives into cases, folders that keep filling, other machines, finished cases searched again."""
