"""Where images are listed from: trees, prefixes, inventories; and which of them."""
