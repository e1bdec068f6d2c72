SELECT epoch FROM owners WHERE instance IN ({places}) ORDER BY epoch
