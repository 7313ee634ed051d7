"""What the service is made of: known vulnerabilities and licences of everything that is installed to run it."""
