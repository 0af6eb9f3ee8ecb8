"""Installs the node, its launch file and its parameters where `ros2` finds them."""

from setuptools import setup

NAME = "florence_edge_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/florence.launch.py"]),
        (f"share/{NAME}/config", ["config/florence.yaml"]),
    ],
    install_requires=["setuptools", "florence-edge"],
    zip_safe=True,
    maintainer="The florence-edge authors",
    maintainer_email="maintainers@florence-edge.invalid",
    description="A ROS 2 lifecycle node that runs Florence-2 on a camera with the florence-edge SDK.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"florence_node = {NAME}.node:main"]},
)
