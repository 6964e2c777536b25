"""The methods, one a file; a recipe has those in methods/ beside its own file, too."""
