"""What follows a gateway's decisions on how many workers there should be: the client of them, and KEDA's scaler."""
