package network

func child(what string) int { return 2 }
