"""What several test modules share: small slides and models, servers, clusters, a real QuPath."""
