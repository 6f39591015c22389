"""Reports of a case: pages, PDF, JSON, tables and pictures, all made from the case alone."""
