"""Read the images a construction run starts from: folders, archives, videos and tables of URLs."""
