"""Archives of many files: batches, watched folders, clusters, new searches of old cases."""
