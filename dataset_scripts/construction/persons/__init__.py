"""Find persons in images, and keep the crops that meet the criteria of the paper."""
