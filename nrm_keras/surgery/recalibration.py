class Recalibration: pass
def recalibrate(): pass
