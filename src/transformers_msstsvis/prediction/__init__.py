"""Videos in files, and what is written for them."""
