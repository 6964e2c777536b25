"""The methods by name, a file each."""
