"""Write a caption for each person, and verify it."""
