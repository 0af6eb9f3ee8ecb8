"""The ROS 2 node of florence-edge."""
