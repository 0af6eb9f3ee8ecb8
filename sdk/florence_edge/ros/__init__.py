"""What ROS is made of, without ROS: message definitions, image encodings, results as messages, the node's logic.

Nothing here imports rclpy; `examples/ros2` wraps the node's logic for it, and `stream.bags` reads and writes bags.
"""
